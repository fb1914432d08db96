// Package lint shows that the linter refuses what .golangci.yml says that it refuses: imports against the direction of
// the layers, and clocks and random numbers where they are injected. It plants each violation in an empty copy of the
// repository's folders and has the pinned golangci-lint look at that.
//
// Its test has the build tag lint and is run by make lint-selftest.
package lint
