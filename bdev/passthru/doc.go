// Package passthru is a block device that hands everything on to another one.
// It costs what a layer costs, and shows what a wrapper needs: a bdev.Base, a
// channel of the base for each of its own, Forward.
package passthru
