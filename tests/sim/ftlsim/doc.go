// Package ftlsim runs a device of 4 KiB blocks, in practice the FTL, over simulated disks under random load, ends its
// lives by power loss, kill and stop at random moments (also while it is created, loaded, recovered or stopped), and
// compares everything that is read with the model of package model.
//
// A seed fixes all of it: the Plan (geometry, kinds of devices, faults, load), the schedule, and what survives. See
// package sim for how to run and replay seeds.
package ftlsim
