package superblock

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// FuzzChoose: of two copies that somebody has changed, sealed or not, one is chosen that is whole and fits the devices,
// or the error says why not.
func FuzzChoose(f *testing.F) {
	f.Add([]byte{}, []byte{}, true, true, uint64(0), uint64(0), false, uint8(0))
	f.Add([]byte{80, 0, 9}, []byte{}, true, true, uint64(0), uint64(0), false, uint8(1))
	f.Add([]byte{0, 0, 1}, []byte{20, 0, 2}, false, true, uint64(1), uint64(0), true, uint8(2))
	f.Add([]byte{32, 0, 1}, []byte{32, 0, 1, 16, 0, 9}, true, true, uint64(0), uint64(5), false, uint8(4))
	good := sample(f)
	f.Fuzz(func(t *testing.T, inCache, inBase []byte, sealCache, sealBase bool, lessCache, lessBase uint64, leave bool, want uint8) {
		mk := func(creating bool, role Role, changes []byte, seal bool, blocks, less uint64) Copy {
			sb := *good
			if creating {
				sb.State |= StateCreating
			}
			b := block(&sb, role, good.Seq)
			for ; len(changes) >= 3; changes = changes[3:] {
				b[(int(changes[0])|int(changes[1])<<8)%len(b)] ^= changes[2]
			}
			if seal {
				reseal(b)
			}
			return Copy{Device: "x", Blocks: blocks - min(less, blocks), Block: b, Overwrite: leave}
		}
		l := good.Layout
		c := mk(want&2 != 0, RoleCache, inCache, sealCache, l.CacheBlocks, lessCache)
		m := mk(want&4 != 0, RoleBase, inBase, sealBase, l.BaseBlocks, lessBase)
		id := uuid.Nil
		if want&1 != 0 {
			id = good.UUID
		}
		got, err := Choose(c, m, id)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		from := c.Block
		if got.From == RoleBase {
			from = m.Block
		}
		sb, err := Decode(from)
		require.NoError(t, err)
		require.Equal(t, sb, got.SB)
		require.True(t, id == uuid.Nil || sb.UUID == id)
		if sb.State&StateCreating != 0 {
			return // it may have no layout yet
		}
		require.True(t, c.Blocks >= sb.Layout.CacheBlocks && m.Blocks >= sb.Layout.BaseBlocks)
		if !got.RewriteCache && !got.RewriteBase {
			require.NoError(t, got.CacheErr)
			require.NoError(t, got.BaseErr)
		}
	})
}
