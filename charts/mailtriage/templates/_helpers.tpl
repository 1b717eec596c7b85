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
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
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

{{- define "mailtriage.container" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
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
