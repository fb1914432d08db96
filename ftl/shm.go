package ftl

import (
	"sync/atomic"
	"unsafe"

	"goftl/ftl/l2p"
	"goftl/ftl/md"
	"goftl/iobuf"
)

// The mapping in shared memory (Rule 21). It outlives the process, not the
// machine, so that a restart after a kill or a fast stop need not read the
// mapping back. It is taken over only if it belongs to this FTL and to the
// incarnation of a superblock that is not clean; redo then begins behind the
// last record that it holds whole.

const (
	shmHeader = 4096
	shmMagic  = 0x4d48_5346_4f47_0001
)

// shmHead is the header, in the host's byte order: it never leaves the host.
type shmHead struct {
	magic uint64
	uuid  [16]byte
	lbas  uint64
	width uint64
	inc   atomic.Uint64 // 0: not to be taken over
	acked atomic.Uint64
	lastG atomic.Uint64
}

var _ [shmHeader - unsafe.Sizeof(shmHead{})]struct{}

// shmTable is the mapping's memory with its header.
type shmTable struct {
	shm  *md.Shm
	head *shmHead
}

// openTable makes the mapping: over what a killed process left, if takeOver
// says so and it is whole; else empty, in shared memory when configured.
func (d *Device) openTable(takeOver bool) {
	width := int(d.lay.L2PEntryBytes)
	size := l2p.MemorySize(d.lay.LBAs, width)
	d.fromShm = false
	if d.cfg.ShmDir != "" && !d.cfg.ReadOnly {
		if takeOver && d.takeOverShm(shmHeader+size) {
			d.fromShm = true
		} else {
			d.newShm(shmHeader + size)
		}
	}
	var mem []byte
	if d.shm != nil {
		mem = d.shm.shm.Bytes()[shmHeader : shmHeader+size]
	} else {
		d.tabMem = iobuf.Alloc(int(size))
		mem = d.tabMem
	}
	d.table = l2p.NewFlat(mem, d.lay.LBAs, width)
}

const shmName = "l2p"

// takeOverShm opens what an earlier process left and checks that it may be
// used.
func (d *Device) takeOverShm(size uint64) bool {
	s, err := md.OpenShm(d.cfg.ShmDir, d.sb.UUID, shmName, size, 0)
	if err != nil {
		d.log.Debug("no mapping in shared memory", "err", err)
		return false
	}
	t := &shmTable{shm: s, head: (*shmHead)(unsafe.Pointer(&s.Bytes()[0]))}
	h := t.head
	if h.magic != shmMagic || h.uuid != d.sb.UUID || h.lbas != d.lay.LBAs || h.width != uint64(d.lay.L2PEntryBytes) ||
		h.inc.Load() != uint64(d.sb.Inc) {
		d.log.Info("mapping in shared memory is stale or foreign: the devices are used")
		s.Close(false)
		return false
	}
	d.shm = t
	return true
}

// newShm makes an empty mapping in shared memory. Without it the device works
// all the same.
func (d *Device) newShm(size uint64) {
	s, err := md.OpenShm(d.cfg.ShmDir, d.sb.UUID, shmName, size, md.ShmNew)
	if err != nil {
		d.log.Warn("no shared memory for the mapping; a restart will read it from the devices", "err", err)
		return
	}
	h := (*shmHead)(unsafe.Pointer(&s.Bytes()[0]))
	h.magic, h.uuid, h.lbas, h.width = shmMagic, d.sb.UUID, d.lay.LBAs, uint64(d.lay.L2PEntryBytes)
	h.inc.Store(0)
	d.shm = &shmTable{shm: s, head: h}
}

func (t *shmTable) acked() uint64 { return t.head.acked.Load() }
func (t *shmTable) lastG() uint64 { return t.head.lastG.Load() }

// setAcked notes that every record up to u is in the mapping.
func (t *shmTable) setAcked(u, g uint64) {
	t.head.lastG.Store(g)
	t.head.acked.Store(u)
}

// begin makes the memory valid for an incarnation.
func (t *shmTable) begin(inc uint32, u, g uint64) {
	t.setAcked(u, g)
	t.head.inc.Store(uint64(inc))
}

// invalidate keeps a restart from taking the memory over.
func (t *shmTable) invalidate() { t.head.inc.Store(0) }

// closeTable gives the mapping's memory back; keep leaves it for a restart.
func (d *Device) closeTable(keep bool) {
	if d.shm != nil {
		d.shm.shm.Close(keep)
		d.shm = nil
	}
	if d.tabMem != nil {
		iobuf.Free(d.tabMem)
		d.tabMem = nil
	}
}
