// Package cli is the command line of ftlperf: fio's option names, checked and
// turned into a run.Config.
package cli
