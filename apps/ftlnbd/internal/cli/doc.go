// Package cli is the command line of ftlnbd.
package cli
