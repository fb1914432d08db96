// Package e2e runs real clients against the real binaries: file systems through nbdfuse and a loop device, nbdcopy,
// qemu-img, fio, and a writer of its own that knows what was acknowledged and flushed when the server is killed.
//
// Its tests have the build tag e2e and are run by make e2e. They need root for mounts and the Debian packages that
// .ci/run installs; what is missing is skipped, or, with GOFTL_E2E_STRICT=1, a failure.
//
// GOFTL_E2E_PEER=nbdkit serves a plain file with nbdkit instead, to tell a broken test from a broken server.
package e2e
