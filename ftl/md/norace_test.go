//go:build !race

package md

const simShare = 1
