// Package record holds the on-media formats of the log: record headers,
// per-block metadata (VSS), segment summaries, segment descriptors and L2P
// pages. All functions are pure: bytes in, values out. Integers are little
// endian.
//
// Everything decoded here is hostile until its checksum, identity and ranges
// were checked; decoders return an error or false and never panic.
//
// # Records
//
// A segment (a chunk of the NV cache or a band of the base device) is written
// front to back in slots of one block. A record is one header block followed
// by its data blocks, written in one device write. On a cache device with
// separate metadata (VSS) the header's content stands in the metadata of each
// data block instead, and there is no header slot; a trim, pad or void record
// is then one block in header form with VSS of its own.
//
//	header block   [0:128) header, then 24 bytes per block {LBA, U, Sum}
//	VSS            64 bytes a block
//	summary block  [0:64) header, then 168 entries of 24 bytes, one per slot
//
// # Numbers
//
// G is the global number of a record, gapless in memory only. U is the
// gapless number of a user record (data, trim, void); moves and pads have
// none. D is the highest U known durable when the record was built. Inc is the
// incarnation: it grows with every load, so that leftovers of an earlier life
// never count as records of this one.
package record
