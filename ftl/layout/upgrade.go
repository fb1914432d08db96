package layout

import "fmt"

// Step brings one region from a version to the next. What it does on the
// device is the owner's: Apply names it, and the owner runs the chosen steps
// in order, storing Region.Version after each, so that an interrupted upgrade
// goes on where it stopped.
type Step[T any] struct {
	Region   RegionType
	From, To uint32
	Apply    T
}

// PlanUpgrade returns the steps that bring every region to the version in
// target (indexed by RegionType; 0 leaves the region alone), in order of
// regions and versions. A region that is newer than its target is refused with
// ErrNewer; a version without a step gives ErrInvalid.
func PlanUpgrade[T any](l *Layout, target [NumRegions]uint32, chain []Step[T]) ([]Step[T], error) {
	var plan []Step[T]
	for t := RegionSB; t < NumRegions; t++ {
		have, want := l.Region(t).Version, target[t]
		if want == 0 {
			continue
		}
		if have > want {
			return nil, fmt.Errorf("%w: region %s has version %d, this program knows %d", ErrNewer, t, have, want)
		}
		for have < want {
			s := findStep(chain, t, have)
			if s == nil {
				return nil, fmt.Errorf("%w: no upgrade of region %s from version %d to %d", ErrInvalid, t, have, want)
			}
			if s.To <= have || s.To > want {
				return nil, fmt.Errorf("%w: upgrade of region %s leads from version %d to %d", ErrInvalid, t, have, s.To)
			}
			plan = append(plan, *s)
			have = s.To
		}
	}
	return plan, nil
}

func findStep[T any](chain []Step[T], t RegionType, from uint32) *Step[T] {
	for i := range chain {
		if chain[i].Region == t && chain[i].From == from {
			return &chain[i]
		}
	}
	return nil
}

// CurrentVersions returns the versions that this program writes.
func CurrentVersions() [NumRegions]uint32 {
	var v [NumRegions]uint32
	for t := RegionSB; t < NumRegions; t++ {
		v[t] = t.CurrentVersion()
	}
	return v
}
