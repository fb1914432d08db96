package proto

import "encoding/binary"

// AppendGreeting appends what a fixed newstyle server says first.
func AppendGreeting(b []byte, flags uint16) []byte {
	b = binary.BigEndian.AppendUint64(b, MagicInit)
	b = binary.BigEndian.AppendUint64(b, MagicOption)
	return binary.BigEndian.AppendUint16(b, flags)
}

// ParseGreeting decodes GreetingSize bytes. ok is false for an oldstyle server
// or something that does not speak NBD.
func ParseGreeting(b []byte) (flags uint16, ok bool) {
	if len(b) < GreetingSize || binary.BigEndian.Uint64(b) != MagicInit ||
		binary.BigEndian.Uint64(b[8:]) != MagicOption {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[16:]), true
}

// OptionHeader announces an option and the length of its data.
type OptionHeader struct {
	Option Option
	Length uint32
}

// ParseOptionHeader decodes OptionHeaderSize bytes. ok is false when the magic
// number is wrong: the client is out of step and cannot be brought back.
func ParseOptionHeader(b []byte) (h OptionHeader, ok bool) {
	_ = b[OptionHeaderSize-1]
	if binary.BigEndian.Uint64(b) != MagicOption {
		return h, false
	}
	return OptionHeader{
		Option: Option(binary.BigEndian.Uint32(b[8:])),
		Length: binary.BigEndian.Uint32(b[12:]),
	}, true
}

// AppendOption appends an option with its data.
func AppendOption(b []byte, o Option, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, MagicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// AppendOptionReply appends an answer with its data.
func AppendOptionReply(b []byte, o Option, r OptionReply, data []byte) []byte {
	b = appendOptionReplyHeader(b, o, r, len(data))
	return append(b, data...)
}

// AppendOptionError appends an answer that refuses the option and says why.
func AppendOptionError(b []byte, o Option, r OptionReply, why string) []byte {
	b = appendOptionReplyHeader(b, o, r, len(why))
	return append(b, why...)
}

func appendOptionReplyHeader(b []byte, o Option, r OptionReply, length int) []byte {
	b = binary.BigEndian.AppendUint64(b, MagicOptionReply)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(r))
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// OptionReplyHeader is the head of an answer to an option.
type OptionReplyHeader struct {
	Option Option
	Reply  OptionReply
	Length uint32
}

// ParseOptionReply decodes OptionReplySize bytes. ok is false when the magic
// number is wrong.
func ParseOptionReply(b []byte) (h OptionReplyHeader, ok bool) {
	_ = b[OptionReplySize-1]
	if binary.BigEndian.Uint64(b) != MagicOptionReply {
		return h, false
	}
	return OptionReplyHeader{
		Option: Option(binary.BigEndian.Uint32(b[8:])),
		Reply:  OptionReply(binary.BigEndian.Uint32(b[12:])),
		Length: binary.BigEndian.Uint32(b[16:]),
	}, true
}

// InfoRequest is the data of INFO and GO: an export and the items wanted.
type InfoRequest struct {
	Name  []byte // aliases the parsed bytes
	items []byte
}

// ParseInfoRequest decodes the data of INFO or GO. ok is false unless the
// lengths inside add up to the length of b exactly.
func ParseInfoRequest(b []byte) (r InfoRequest, ok bool) {
	if len(b) < 6 {
		return r, false
	}
	name := uint64(binary.BigEndian.Uint32(b))
	if name > uint64(len(b)-6) {
		return r, false
	}
	r.Name = b[4 : 4+name]
	rest := b[4+name:]
	items := int(binary.BigEndian.Uint16(rest))
	r.items = rest[2:]
	return r, len(r.items) == 2*items
}

// Wants says whether the client asked for the item.
func (r *InfoRequest) Wants(t InfoType) bool {
	for b := r.items; len(b) >= 2; b = b[2:] {
		if InfoType(binary.BigEndian.Uint16(b)) == t {
			return true
		}
	}
	return false
}

// AppendInfoRequest appends the data of INFO or GO.
func AppendInfoRequest(b []byte, name string, items ...InfoType) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(items)))
	for _, t := range items {
		b = binary.BigEndian.AppendUint16(b, uint16(t))
	}
	return b
}

// AppendServer appends the data of one entry of LIST.
func AppendServer(b []byte, name, description string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	return append(b, description...)
}

// ParseServer decodes one entry of LIST. The results alias b.
func ParseServer(b []byte) (name, description []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// AppendInfoExport appends the item that says how big an export is and what
// it can do.
func AppendInfoExport(b []byte, sizeBytes uint64, flags TransmissionFlags) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(InfoExport))
	b = binary.BigEndian.AppendUint64(b, sizeBytes)
	return binary.BigEndian.AppendUint16(b, uint16(flags))
}

// AppendInfoString appends a name or a description.
func AppendInfoString(b []byte, t InfoType, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	return append(b, s...)
}

// BlockSizes are the size constraints of an export, in bytes.
type BlockSizes struct {
	Min, Preferred, MaxPayload uint32
}

// AppendInfoBlockSize appends the item with the size constraints.
func AppendInfoBlockSize(b []byte, s BlockSizes) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(InfoBlockSize))
	b = binary.BigEndian.AppendUint32(b, s.Min)
	b = binary.BigEndian.AppendUint32(b, s.Preferred)
	return binary.BigEndian.AppendUint32(b, s.MaxPayload)
}

// ParseInfoBlockSize decodes the item, its type included.
func ParseInfoBlockSize(b []byte) (s BlockSizes, ok bool) {
	if len(b) != InfoBlockSizeSize || InfoType(binary.BigEndian.Uint16(b)) != InfoBlockSize {
		return s, false
	}
	return BlockSizes{
		Min:        binary.BigEndian.Uint32(b[2:]),
		Preferred:  binary.BigEndian.Uint32(b[6:]),
		MaxPayload: binary.BigEndian.Uint32(b[10:]),
	}, true
}

// ParseInfoExport decodes the item, its type included.
func ParseInfoExport(b []byte) (sizeBytes uint64, flags TransmissionFlags, ok bool) {
	if len(b) != InfoExportSize || InfoType(binary.BigEndian.Uint16(b)) != InfoExport {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[2:]), TransmissionFlags(binary.BigEndian.Uint16(b[10:])), true
}

// AppendExportName appends the answer to EXPORT_NAME.
func AppendExportName(b []byte, sizeBytes uint64, flags TransmissionFlags, noZeroes bool) []byte {
	b = binary.BigEndian.AppendUint64(b, sizeBytes)
	b = binary.BigEndian.AppendUint16(b, uint16(flags))
	if noZeroes {
		return b
	}
	return append(b, make([]byte, ExportNameZeroes)...)
}

// ContextRequest is the data of LIST_META_CONTEXT and SET_META_CONTEXT: an
// export and what is wanted of it.
type ContextRequest struct {
	Name    []byte // aliases the parsed bytes
	queries []byte
}

// ParseContextRequest decodes the data of LIST_META_CONTEXT or
// SET_META_CONTEXT. ok is false unless the lengths inside add up to the length
// of b exactly.
func ParseContextRequest(b []byte) (r ContextRequest, ok bool) {
	if r.Name, b, ok = cutString(b); !ok || len(b) < 4 {
		return ContextRequest{}, false
	}
	n := binary.BigEndian.Uint32(b)
	r.queries = b[4:]
	for b = r.queries; n > 0; n-- {
		if _, b, ok = cutString(b); !ok {
			return ContextRequest{}, false
		}
	}
	return r, len(b) == 0
}

// cutString takes a length and as many bytes off b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) || n > MaxStringSize {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// Empty says whether there is no query.
func (r *ContextRequest) Empty() bool { return len(r.queries) == 0 }

// Wants says whether one of the queries is for exactly this.
func (r *ContextRequest) Wants(query string) bool {
	for b := r.queries; len(b) > 0; {
		var q []byte
		if q, b, _ = cutString(b); string(q) == query {
			return true
		}
	}
	return false
}

// AppendContextRequest appends the data of LIST_META_CONTEXT or
// SET_META_CONTEXT.
func AppendContextRequest(b []byte, name string, queries ...string) []byte {
	b = appendString(b, name)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = appendString(b, q)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// AppendContext appends the data of META_CONTEXT, the answer that names one
// context.
func AppendContext(b []byte, id uint32, name string) []byte {
	return append(binary.BigEndian.AppendUint32(b, id), name...)
}

// ParseContext decodes the data of META_CONTEXT. The name aliases b.
func ParseContext(b []byte) (id uint32, name []byte, ok bool) {
	if len(b) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(b), b[4:], true
}
