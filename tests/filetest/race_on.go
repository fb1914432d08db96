//go:build race

package filetest

const raceEnabled = true
