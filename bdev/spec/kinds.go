package spec

import "strings"

// kindOf returns how a kind is written and made, nil when there is none.
func kindOf(name string) *kind {
	for i := range kinds {
		if kinds[i].name == name {
			return &kinds[i]
		}
	}
	return nil
}

func kindNames() string {
	names := make([]string, len(kinds))
	for i := range kinds {
		names[i] = kinds[i].name
	}
	return strings.Join(names, ", ")
}

var kinds = [...]kind{
	{name: "malloc", main: "size", keys: []string{"bs", "md", "uuid", "populate"}, example: "malloc:5GiB,md=64", make: makeMalloc},
	{name: "null", main: "size", keys: []string{"bs", "md"}, example: "null:400GiB", make: makeNull},
	{
		name: "file", main: "path", keys: []string{"size", "driver", "direct", "depth", "readonly"},
		example: "file:/var/tmp/disk,size=20GiB", make: makeFile,
	},
	{
		name: "zbd", main: "path", keys: []string{"driver", "depth", "units", "readonly"},
		example: "zbd:/dev/nvme0n2", make: makeZbd,
	},
	{name: "passthru", wrapper: true, example: "passthru:malloc:1GiB", make: makePassthru},
	{
		name: "zone", wrapper: true, main: "size of a zone",
		keys: []string{
			"cap", "units", "unit", "conv", "open", "active", "append", "init", "readonly", "offline", "fail-reset", "persist", "unmap",
		},
		example: "zone:256MiB,units=4:null:400GiB", make: makeZone,
	},
	{
		name: "delay", wrapper: true, main: "time", mayOmit: true,
		keys:    []string{"read", "write", "p99-read", "p99-write", "seed"},
		example: "delay:100us:malloc:1GiB", make: makeDelay,
	},
	{
		name: "volatile", wrapper: true, keys: []string{"size", "early", "seed", "die", "lie"},
		example: "volatile:size=8MiB,early=0.05:file:/var/tmp/disk", make: makeVolatile,
	},
	{
		name: "errinj", wrapper: true, groups: true,
		keys: []string{
			"fail", "delay", "corrupt", "tear", "drop", "hang", "sectors", "landed", "op", "lba", "after", "nth", "every",
			"prob", "seed", "count",
		},
		example: "errinj:fail=EIO,op=write,nth=100:malloc:1GiB", make: makeErrinj,
	},
}
