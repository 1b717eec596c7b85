{{/* The InferenceService's name, from which KServe derives NAME-predictor and NAME-transformer. */}}
{{- define "mailtriage.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "mailtriage.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "mailtriage.name" .) -}}
{{- end }}

{{- define "mailtriage.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What selects the release's objects: never changes during its life, so no version in it. */}}
{{- define "mailtriage.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* For every object but the InferenceService, whose labels KServe copies to the pods: a version there would
     roll all pods at each new chart, though nothing in them changed. */}}
{{- define "mailtriage.labels" -}}
{{ include "mailtriage.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: mailtriage
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Pods of one component; `component` is KServe's own label. Call with (list $ "transformer"). */}}
{{- define "mailtriage.podSelector" -}}
matchLabels:
  {{- include "mailtriage.selectorLabels" (index . 0) | nindent 2 }}
  component: {{ index . 1 }}
{{- end }}

{{- define "mailtriage.gatewayClass" -}}
{{- .Values.gateway.className | default .Values.gateway.provider -}}
{{- end }}

{{/* What policies hang on: the Gateway, so that no second route escapes them. */}}
{{- define "mailtriage.gatewayRef" -}}
group: gateway.networking.k8s.io
kind: Gateway
name: {{ include "mailtriage.name" . }}
{{- end }}

{{/* The issuer's keys, and that all is said which belongs to it. Call where `jwt.issuer` is set. */}}
{{- define "mailtriage.checkJwt" -}}
{{- with .Values.jwt -}}
{{- if not .audiences }}{{ fail "jwt.audiences is needed: a token must be meant for this service" }}{{ end -}}
{{- if eq (empty .jwks) (empty .jwksUri) }}{{ fail "jwt.jwksUri or jwt.jwks is needed, and only one of them" }}{{ end -}}
{{- end -}}
{{- end }}

{{/* Paths that exist outside, by rule. */}}
{{- define "mailtriage.paths" -}}
{{- $model := .Values.modelName -}}
predict: [{{ printf "/v1/models/%s:predict" $model }}, {{ printf "/v1/models/%s:explain" $model }}, {{ printf "/v2/models/%s/infer" $model }}]
status: [{{ printf "/v1/models/%s" $model }}, {{ printf "/v2/models/%s" $model }}, {{ printf "/v2/models/%s/ready" $model }}, /v2/health/ready, /v2/health/live]
{{- end }}

{{/* Matches of an HTTPRoute: Exact, because a PathPrefix compares whole path elements and would not match `:predict`. What is
     not listed is 404. Call with (list PATHS HEADERS). */}}
{{- define "mailtriage.matches" -}}
{{- $headers := index . 1 -}}
{{- range index . 0 }}
- path: {type: Exact, value: {{ . | quote }}}
  {{- with $headers }}
  headers: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Rules of an HTTPRoute. Call with (list $ HEADERS), the header matches that a request needs beside its path. */}}
{{- define "mailtriage.routeRules" -}}
{{- $ := index . 0 -}}
{{- $headers := index . 1 -}}
{{- range $name, $paths := include "mailtriage.paths" $ | fromYaml }}
- name: {{ $name }}
  matches: {{- include "mailtriage.matches" (list $paths $headers) | nindent 4 }}
  filters:
    # What opens the door stays at the door.
    - type: RequestHeaderModifier
      requestHeaderModifier:
        remove: [authorization, {{ $.Values.apiKeys.header }}{{ if $headers }}, x-token-expires{{ end }}]
        {{- if $headers }}
        set:
          - {name: x-client-id, value: "%REQ(x-token-subject)%"}
        {{- end }}
  timeouts:
    # A little more than the transformer's own limit, so that its answer says what took so long.
    request: {{ ternary (add (int $.Values.limits.requestTimeoutSeconds) 5) 5 (eq $name "predict") }}s
  backendRefs:
    - name: {{ include "mailtriage.name" $ }}-transformer
      port: 80
{{- end }}
{{- end }}

{{- define "mailtriage.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "mailtriage.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What predictor and transformer share. Call with (list $ .Values.predictor). */}}
{{- define "mailtriage.componentScaling" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
minReplicas: {{ $component.replicas }}
{{- if $.Values.autoscaling.enabled }}
maxReplicas: {{ max $.Values.autoscaling.maxReplicas $component.replicas }}
scaleMetric: cpu
scaleTarget: {{ $.Values.autoscaling.targetCpuPercent }}
{{- else }}
maxReplicas: {{ $component.replicas }}
{{- end }}
timeout: {{ $.Values.limits.requestTimeoutSeconds }}
deploymentStrategy:
  type: RollingUpdate
  rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- end }}

{{/* What the pods of both components share. Call with (list $ "predictor"). */}}
{{- define "mailtriage.podSpec" -}}
{{- $component := index . 1 -}}
{{- with index . 0 -}}
serviceAccountName: {{ include "mailtriage.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
# The servers drain for up to 20 s after the 5 s in which the proxy learns that the pod leaves.
terminationGracePeriodSeconds: 35
securityContext: {{- include "mailtriage.podSecurityContext" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- $own := index .Values $component -}}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
# On different nodes where there are several: one that fails then takes only one pod.
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {{- include "mailtriage.podSelector" (list . $component) | nindent 6 }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
{{- end }}
{{- end }}

{{/* Port of the collector of traces. */}}
{{- define "mailtriage.tracesPort" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" $url.host | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end }}

{{/* What both servers' containers share. Call with (list $ "predictor"). */}}
{{- define "mailtriage.container" -}}
{{- $ := index . 0 -}}
{{- $name := index . 1 -}}
{{- $component := index $.Values $name -}}
name: kserve-container
image: {{ include "mailtriage.image" $ }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
# Why a server refused to start stands in `kubectl describe pod`.
terminationMessagePolicy: FallbackToLogsOnError
ports:
  - {name: http, containerPort: 8080, protocol: TCP}
env:
  # KServe mounts or fetches what this names, and sets it to /mnt/models in the pod.
  - name: STORAGE_URI
    value: {{ required "bundle.storageUri is needed: where the bundle is, such as pvc://bundles/mailtriage-3 or s3://models/mailtriage/3" $.Values.bundle.storageUri | quote }}
  {{- with $.Values.monitoring.traces }}
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ . | quote }}
  {{- end }}
  {{- if and $.Values.predictions.secretName (eq $name "transformer") }}
  - name: MAILTRIAGE_PREDICTIONS
    valueFrom:
      secretKeyRef: {name: {{ $.Values.predictions.secretName }}, key: url}
  {{- end }}
resources: {{- toYaml $component.resources | nindent 2 }}
securityContext: {{- include "mailtriage.containerSecurityContext" $ | nindent 2 }}
startupProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /v2/health/ready, port: 8080}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 3
lifecycle:
  preStop:
    sleep: {seconds: 5}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end }}
