// Package superblock codes the block from which everything else of an FTL is
// found. It is the first block of the cache device, with a mirror as the
// first block of the base device. All functions are pure.
//
// # Form
//
// Bytes [0, 4080) belong to this package; [4080, 4096), the trailer of metadata
// blocks elsewhere, stay zero. Magic, checksum and version stand at places
// that never change, so that every version recognises every other:
//
//	[0:8)   magic      [8:16)  XXH64 of [16:4080)     [16:20) version
//	[20]    role: the device that this copy belongs to
//	[24:..) the rest, see codec.go
//
// Both copies differ only in role and checksum: Seal makes one into the other.
//
// # Choosing
//
// A write of the superblock goes to the mirror first and to the primary after
// a flush, so at least one copy is whole at any time. Choose takes the newer
// whole copy and says which one must be rewritten. That has to be done, and
// flushed, before anything else is written: the other copy may describe what
// the next write destroys.
package superblock
