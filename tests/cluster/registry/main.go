// An image registry in memory, for the node and for this machine: the module's own program listens on localhost only.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	log.Fatal(http.ListenAndServe(":"+os.Args[1], registry.New()))
}
