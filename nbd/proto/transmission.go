package proto

import "encoding/binary"

// Request is the header of a request. A write is followed by Length bytes.
type Request struct {
	Flags   CommandFlags
	Command Command
	Cookie  uint64 // the client's name for the request, echoed in the reply
	Offset  uint64 // bytes
	Length  uint32 // bytes
}

// ParseRequest decodes the first RequestSize bytes of b, which the caller
// guarantees to be there. It reports whether the magic number is right.
func ParseRequest(b []byte, r *Request) bool {
	_ = b[RequestSize-1]
	if binary.BigEndian.Uint32(b) != MagicRequest {
		return false
	}
	r.Flags = CommandFlags(binary.BigEndian.Uint16(b[4:]))
	r.Command = Command(binary.BigEndian.Uint16(b[6:]))
	r.Cookie = binary.BigEndian.Uint64(b[8:])
	r.Offset = binary.BigEndian.Uint64(b[16:])
	r.Length = binary.BigEndian.Uint32(b[24:])
	return true
}

// PutRequest encodes r into the first RequestSize bytes of b.
func PutRequest(b []byte, r *Request) {
	_ = b[RequestSize-1]
	binary.BigEndian.PutUint32(b, MagicRequest)
	binary.BigEndian.PutUint16(b[4:], uint16(r.Flags))
	binary.BigEndian.PutUint16(b[6:], uint16(r.Command))
	binary.BigEndian.PutUint64(b[8:], r.Cookie)
	binary.BigEndian.PutUint64(b[16:], r.Offset)
	binary.BigEndian.PutUint32(b[24:], r.Length)
}

// PutSimpleReply encodes a simple reply into the first SimpleReplySize bytes.
func PutSimpleReply(b []byte, e Errno, cookie uint64) {
	_ = b[SimpleReplySize-1]
	binary.BigEndian.PutUint32(b, MagicSimpleReply)
	binary.BigEndian.PutUint32(b[4:], uint32(e))
	binary.BigEndian.PutUint64(b[8:], cookie)
}

// ParseSimpleReply decodes a simple reply. It reports whether the magic number
// is right.
func ParseSimpleReply(b []byte) (e Errno, cookie uint64, ok bool) {
	_ = b[SimpleReplySize-1]
	if binary.BigEndian.Uint32(b) != MagicSimpleReply {
		return 0, 0, false
	}
	return Errno(binary.BigEndian.Uint32(b[4:])), binary.BigEndian.Uint64(b[8:]), true
}

// Chunk is the header of a chunk of a structured reply.
type Chunk struct {
	Flags  uint16
	Type   ReplyType
	Cookie uint64
	Length uint32 // bytes that follow the header
}

// PutChunk encodes c into the first StructuredReplySize bytes of b.
func PutChunk(b []byte, c *Chunk) {
	_ = b[StructuredReplySize-1]
	binary.BigEndian.PutUint32(b, MagicStructuredReply)
	binary.BigEndian.PutUint16(b[4:], c.Flags)
	binary.BigEndian.PutUint16(b[6:], uint16(c.Type))
	binary.BigEndian.PutUint64(b[8:], c.Cookie)
	binary.BigEndian.PutUint32(b[16:], c.Length)
}

// ParseChunk decodes a chunk header. It reports whether the magic number is
// right.
func ParseChunk(b []byte, c *Chunk) bool {
	_ = b[StructuredReplySize-1]
	if binary.BigEndian.Uint32(b) != MagicStructuredReply {
		return false
	}
	c.Flags = binary.BigEndian.Uint16(b[4:])
	c.Type = ReplyType(binary.BigEndian.Uint16(b[6:]))
	c.Cookie = binary.BigEndian.Uint64(b[8:])
	c.Length = binary.BigEndian.Uint32(b[16:])
	return true
}

// PutOffsetData encodes the head of the only and last chunk of the reply to a
// read of length bytes at offset: OffsetDataHeaderSize bytes. The data follows.
func PutOffsetData(b []byte, cookie, offset uint64, length uint32) {
	_ = b[OffsetDataHeaderSize-1]
	PutChunk(b, &Chunk{Flags: ReplyFlagDone, Type: ReplyOffsetData, Cookie: cookie, Length: length + 8})
	binary.BigEndian.PutUint64(b[StructuredReplySize:], offset)
}

// PutErrorChunk encodes a last chunk that reports e without a message:
// ErrorChunkSize bytes.
func PutErrorChunk(b []byte, e Errno, cookie uint64) {
	_ = b[ErrorChunkSize-1]
	PutChunk(b, &Chunk{Flags: ReplyFlagDone, Type: ReplyError, Cookie: cookie, Length: 6})
	binary.BigEndian.PutUint32(b[StructuredReplySize:], uint32(e))
	binary.BigEndian.PutUint16(b[StructuredReplySize+4:], 0)
}

// PutBlockStatus encodes the head of the only and last chunk of the reply to a
// block status: BlockStatusSize bytes. So many extents follow.
func PutBlockStatus(b []byte, cookie uint64, context uint32, extents int) {
	_ = b[BlockStatusSize-1]
	PutChunk(b, &Chunk{Flags: ReplyFlagDone, Type: ReplyBlockStatus, Cookie: cookie, Length: uint32(4 + extents*ExtentSize)})
	binary.BigEndian.PutUint32(b[StructuredReplySize:], context)
}

// PutExtent encodes an extent of a block status: ExtentSize bytes.
func PutExtent(b []byte, length, state uint32) {
	_ = b[ExtentSize-1]
	binary.BigEndian.PutUint32(b, length)
	binary.BigEndian.PutUint32(b[4:], state)
}

// ParseExtent decodes an extent of a block status.
func ParseExtent(b []byte) (length, state uint32) {
	_ = b[ExtentSize-1]
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
}
