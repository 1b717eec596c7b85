// Published schemas of what the test cluster has no controller for; `go mod download` brings them, go.sum checks them.
module schemas

go 1.24

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	istio.io/api v1.27.1
)
