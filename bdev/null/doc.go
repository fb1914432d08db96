// Package null is the block device that does nothing: writes are forgotten,
// and reads leave the buffers as they are. It measures the layer above it.
package null
