package ftlsim

import (
	"fmt"
	"sort"
	"strings"
)

// State is something rare that runs must reach, or they do not test what they say.
type State struct {
	Name string // of its counter
	// Seeds says for each kind of world, by name, how many seeds are enough to reach it for certain; none: not expected.
	Seeds map[string]int
}

// everywhere is every kind of world but the restless ones, which are too small for much.
func everywhere(n int) map[string]int {
	m := make(map[string]int)
	for i := range Kinds {
		if Kinds[i].Name != "restless" {
			m[Kinds[i].Name] = n
		}
	}
	return m
}

func in(kinds string, n int) map[string]int {
	m := make(map[string]int)
	for _, k := range strings.Fields(kinds) {
		m[k] = n
	}
	return m
}

// States returns the required states. The numbers of seeds are such that twenty or so are expected.
func States() []State {
	log := func(msg string) string { return "log: " + msg }
	return []State{
		{"power losses", everywhere(100)},
		{"kills", everywhere(100)},
		{"crash inside a poll", everywhere(1000)},
		{"clean stops", everywhere(100)},
		{"fast stops", everywhere(100)},
		{"clock set back", everywhere(200)},
		{"IOs that hang", everywhere(200)},
		{"user zero", everywhere(100)},
		{"blocks torn", everywhere(100)},
		{"writes interrupted", everywhere(100)},
		{"crash in create", everywhere(200)},
		{"crash while the log is read", everywhere(200)},
		{"crash in recovery's checkpoint", everywhere(200)},
		{"crash while recovered segments are closed", everywhere(400)},
		{"crash while the clean flag is cleared", everywhere(3000)},
		{"crash in a clean stop", everywhere(200)},
		{"crash in a fast stop", in("plain faults", 1000)},
		{"stops in the middle of work", everywhere(100)},
		{"lulls in the middle of work", in("rot", 60)},
		{"crash in a stop's checkpoint", everywhere(2000)},
		{"crash while marked clean", everywhere(5000)},
		{"crash in rest", everywhere(2000)},
		{"crash in verification", everywhere(1000)},
		{"recovery interrupted twice", everywhere(300)},
		{"recovery interrupted three times", everywhere(2000)},
		{"checkpoint interrupted", everywhere(100)},
		{"checkpoint interrupted behind its directory", everywhere(100)},
		{"checkpoint aborted", in("faults", 300)},
		{"open segment scanned", everywhere(100)},
		{"torn record at the tail", everywhere(200)},
		{"trim kept alive by a checkpoint", everywhere(100)},
		{"shared memory taken over", everywhere(100)},
		{log("mapping in shared memory is stale or foreign: the devices are used"), everywhere(300)},
		{log("superblock copy rewritten from the other"), everywhere(200)},
		{log("metadata: primary not readable, the mirror is used: chunk_md"), map[string]int{"plain": 4000, "faults": 2000, "rot": 300}},
		{log("metadata: primary not readable, the mirror is used: band_md"), in("rot", 200)},
		{log("checkpoint directory unreadable"), in("rot", 4000)},
		{log("summary unreadable, the segment is scanned"), in("faults rot", 300)},
		{log("summary not written; kept in memory"), in("faults bases", 200)},
		{log("FULL descriptor not written; the segment is scanned after a crash"), in("faults", 200)},
		{log("zone takes no writes any more"), in("bases", 100)},
		{log("zone reset failed, the zone is retired"), in("bases", 200)},
		{log("band dropped: none of its zones can be written"), in("bases", 200)},
		{log("opening a segment failed"), in("faults", 200)},
		{log("superblock write failed, trying again"), in("faults", 300)},
		{log("block cannot be read"), in("rot", 100)},
		{log("block lost: it cannot be read"), in("rot", 2000)},
		{"rotten page", in("rot", 800)},
		{"gap judged as rot", map[string]int{"rot": 150, "stray": 1000}},
		{"damaged record applied", in("rot", 150)},
		{"losses reported", map[string]int{"rot": 250, "stray": 800}},
		{log("trim record unreadable"), in("stray", 800)},
		{log("blocks given up: their segment does not describe them"), in("stray", 500)},
		{"write gone astray", in("stray", 100)},
		{"write of a bad spot gone astray", in("stray", 100)},
		{"device lost: cache", in("gone", 100)},
		{"device lost: base", in("gone", 100)},
		{"start refused without a device", in("gone", 100)},
		{"record rehomed", in("faults", 100)},
		{"record voided", in("faults gone", 400)},
		{"void record found", in("faults", 1500)},
		{"filled twice", in("plain faults rot stray", 100)},
		{"writes after the faults", in("faults", 100)},
		{"starts failed by faults", in("faults", 300)},
		{"slow read path", everywhere(100)},
		{"retry for want of memory", in("plain faults", 100)},
		{"writes throttled", everywhere(100)},
		{"write buffer full", in("buffered buffered-faults", 50)},
		{"answered write given up", in("buffered-faults", 50)},
		{"quarantine waited for", everywhere(100)},
		{"block replaced before its move", everywhere(100)},
		{"move raced a write", everywhere(100)},
		{"chunks compacted", everywhere(100)},
		{"bands relocated", everywhere(100)},
		{"blocks moved through the log", everywhere(300)},
		{"free bands lost", in("bases buffered", 200)},
		{"crash in recovery's checkpoint", in("restless", 50)},
		{"crash while recovered segments are closed", in("restless", 50)},
		{"crash while the clean flag is cleared", in("restless", 500)},
		{"recovery interrupted three times", in("restless", 50)},
		{"checkpoint interrupted behind its directory", in("restless", 50)},
		{"torn record at the tail", in("restless", 50)},
		{"shared memory taken over", in("restless", 50)},
		{log("superblock copy rewritten from the other"), in("restless", 50)},
		{log("metadata: primary not readable, the mirror is used: chunk_md"), in("restless", 500)},
	}
}

// Report is the table of what a run over so many seeds of a kind of world has reached, and which of the states it
// should have reached and has not.
func Report(states []State, kind string, seeds int, counters map[string]uint64) (table []string, missing []string) {
	required := make(map[string]bool)
	for _, s := range states {
		if n, ok := s.Seeds[kind]; ok {
			required[s.Name] = true
			if seeds >= n && counters[s.Name] == 0 {
				missing = append(missing, s.Name)
			}
		}
	}
	names := make([]string, 0, len(counters))
	for k := range counters {
		names = append(names, k)
	}
	for _, s := range missing {
		if _, ok := counters[s]; !ok {
			names = append(names, s)
		}
	}
	sort.Strings(names)
	for _, k := range names {
		mark := " "
		if required[k] {
			mark = "*"
		}
		table = append(table, fmt.Sprintf("%12d %s %s", counters[k], mark, k))
	}
	return table, missing
}

// trims are the blocks whose last write was a trim, and the number of its record.
type trims map[uint64]uint64

// noteTrim notes a request that was acknowledged.
func (p *Play) noteTrim(q *Request) {
	if q.Kind != Trim {
		if len(p.trims) > 0 {
			for i := range q.Count {
				delete(p.trims, q.LBA+i)
			}
		}
		return
	}
	u := p.dev.Acked()
	for i := range q.Count {
		p.trims[q.LBA+i] = u
	}
}

// keptTrims looks, after a recovery, for trims of which the log knows nothing any more, and which are honoured.
func (p *Play) keptTrims(found map[uint64]uint64) {
	kept := uint64(0)
	for lba, u := range p.trims {
		if id, ok := found[lba]; ok && id != 0 {
			delete(p.trims, lba) // it was lost
		} else if ok && kept == 0 && p.dev.Forgotten(u) {
			kept = 1
		}
	}
	p.count("trim kept alive by a checkpoint", kept)
}

// loaded counts what a start found.
func (p *Play) loaded() { p.dev.Loaded(p.count) }

// headersOnly counts blocks that the sound summary of their segment does not describe.
const headersOnly = "block known to headers only"

// ended counts what happened in the life that ends. Summaries describe all that is mapped to their segments, unless
// writes failed, or what was written changed.
func (p *Play) ended() {
	if p.dev != nil {
		p.dev.Ended(p.count)
	}
	if n := p.Counters[headersOnly]; n > 0 && !p.kind.Errors && !p.kind.Rot {
		p.failf("%d blocks are known to headers only: summaries do not describe them", n)
	}
}

// tally adds up what the disks saw.
func (p *Play) tally() {
	for _, d := range p.disks {
		s := d.Stats()
		p.count("disk IOs", s.Reads+s.Writes+s.Flushes+s.Unmaps)
		p.count("unflushed versions lost", s.Lost)
		p.count("unflushed versions kept", s.Kept)
		p.count("blocks torn", s.Torn)
		p.count("writes interrupted", s.Interrupted)
		p.count("retry for want of memory", s.NoMem)
		p.count("injected errors", s.ReadErrors+s.WriteErrors+s.FlushErrors+s.NoSpace)
		p.count("IOs that hang", s.Hung)
	}
}
