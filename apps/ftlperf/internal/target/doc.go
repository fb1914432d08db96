// Package target is what jobs run on: any block device, an FTL made of two of
// them, or an NBD server. Each target gives jobs a job.Channel on a thread, says
// what it is, and is opened and closed from the main goroutine.
package target
