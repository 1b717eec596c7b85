// An image registry in memory, for tests that push and pull; `go build` brings it, go.sum checks it.
module registry

go 1.24

require github.com/google/go-containerregistry v0.20.3
