// Package ftl is a flash translation layer: it makes one crash-safe device of
// 4 KiB blocks out of a big device that likes large sequential writes (the
// base) and a small fast one (the NV cache).
//
// # Ownership
//
// A Device belongs to one thread.Thread, its core thread. Every function and
// method of this package is called there, and every callback runs there.
// Nothing blocks: whatever waits is an op with a stage and a completion.
//
// Users reach it by IO channels (channel.go), which may have a volatile write
// cache each (channelbuffer.go); Device.Submit uses a channel of its own.
//
// # The log
//
// User records (write, trim) are numbered without gaps (u) and appended to the
// open chunk of the NV cache. Mapping and acknowledgement follow in u order
// (write.go). Full chunks are drained to bands by compaction, bands by
// relocation (mover.go). A segment that became empty waits in quarantine for a
// checkpoint (checkpoint.go) before it is used again, so recovery always finds
// what it needs (recovery.go).
//
// # Rules of power loss
//
// The order of writes and flushes follows a model-checked set of rules; the
// comments that begin with "Rule n" stand beside the write that a rule orders,
// and ARCHITECTURE.md has the table.
package ftl
