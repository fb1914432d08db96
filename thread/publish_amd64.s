//go:build amd64 && !race

#include "textflag.h"

// func publish(seq *atomic.Uint64, v uint64, next *slot)
TEXT ·publish(SB), NOSPLIT, $0-24
	MOVQ seq+0(FP), AX
	MOVQ v+8(FP), CX
	MOVQ next+16(FP), DX
	MOVQ CX, (AX)
	BYTE $0x0F; BYTE $0x0D; BYTE $0x0A // PREFETCHW (DX): a hint, nothing on processors that lack it
	RET
