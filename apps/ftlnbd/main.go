// Command ftlnbd serves a flash translation layer over NBD, and plans,
// inspects, checks and destroys one.
package main

import (
	"os"

	"goftl/apps/ftlnbd/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
