//go:build race

package md

// simShare is the part of the simulated schedules that the race detector, which
// is some thirty times slower, is given.
const simShare = 20
