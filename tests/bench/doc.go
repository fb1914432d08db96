// Package bench compares this project with its peers on this machine, in one run, since absolute figures of shared
// machines drift: make bench-file (fio's io_uring engine on the same file) and make bench-nbd (nbdkit, qemu-nbd,
// nbd-server under the same clients). The comparisons have the build tag bench.
package bench
