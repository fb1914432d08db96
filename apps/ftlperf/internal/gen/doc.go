// Package gen draws the addresses of a workload: uniform, every block once in
// random order, Zipf, Pareto and zoned (hot and cold parts).
//
// It owns nothing but its own state: a Source belongs to one job and is used
// on that job's thread only. A Source is a pure function of its seed, costs a
// few nanoseconds a draw and never allocates after it was built.
//
// Each generator is exactly what its name says, and chi-square tests prove it:
// Zipf is drawn by rejection from an envelope and not from the usual
// approximation, ranks are scattered over the range by a bijection and not by
// a hash that lets blocks collide.
package gen
