// Package layout says where everything of an FTL lies on its two devices.
//
// A Layout is computed once, when a device is created, from the sizes of the
// cache and the base device and from the configuration; it is stored in the
// superblock and read back at every start. All functions are pure: no thread,
// no device, no clock.
//
//	cache  | SB | chunk md | chunk md' | band md | band md' | dir 0A 0B 1A 1B | L2P 0 | L2P 1 | chunks ... |
//	base   | SB'| gap up to the alignment | bands ...                                                       |
//
// Invariants, verified by Validate after computing and after decoding:
//
//   - Regions lie within their device and do not overlap.
//   - Chunks and bands are powers of two of blocks and include their summary.
//   - Region sizes follow from the number of chunks, bands, L2P pages.
//   - Every slot of every chunk and band has an address that fits an entry of
//     the L2P.
//
// Every region carries the version of its format. A layout or a region that
// is newer than this program is refused (ErrNewer): there is no downgrade. An
// older one is brought up to date by a chain of steps, one for each version
// (upgrade.go).
package layout
