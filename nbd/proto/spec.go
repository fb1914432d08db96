package proto

// Magic numbers of the handshake and of the transmission phase.
const (
	MagicInit            uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	MagicOption          uint64 = 0x49484156454f5054 // "IHAVEOPT"
	MagicOptionReply     uint64 = 0x0003e889045565a9
	MagicRequest         uint32 = 0x25609513
	MagicSimpleReply     uint32 = 0x67446698
	MagicStructuredReply uint32 = 0x668e33ef
)

// Sizes of the fixed parts of messages, in bytes.
const (
	GreetingSize         = 18
	ClientFlagsSize      = 4
	OptionHeaderSize     = 16
	OptionReplySize      = 20
	RequestSize          = 28
	SimpleReplySize      = 16
	StructuredReplySize  = 20
	ExportNameReplySize  = 10
	ExportNameZeroes     = 124
	InfoExportSize       = 12
	InfoBlockSizeSize    = 14
	OffsetDataHeaderSize = StructuredReplySize + 8 // chunk header and the offset in front of the data
	BlockStatusSize      = StructuredReplySize + 4 // chunk header and the context
	ExtentSize           = 8                       // of a block status
	ErrorChunkSize       = StructuredReplySize + 6 // chunk header, error and the length of an empty message
	MaxReplyHeaderSize   = OffsetDataHeaderSize    // the longest of the headers above that precede data
	MaxStringSize        = 4096                    // the longest name, description or message
)

// Handshake flags, sent by the server.
const (
	FlagFixedNewstyle uint16 = 1 << 0
	FlagNoZeroes      uint16 = 1 << 1
)

// Client flags, the answer to the handshake flags.
const (
	FlagClientFixedNewstyle uint32 = 1 << 0
	FlagClientNoZeroes      uint32 = 1 << 1
)

// TransmissionFlags say what an export can do.
type TransmissionFlags uint16

// Transmission flags.
const (
	FlagHasFlags        TransmissionFlags = 1 << 0
	FlagReadOnly        TransmissionFlags = 1 << 1
	FlagSendFlush       TransmissionFlags = 1 << 2
	FlagSendFUA         TransmissionFlags = 1 << 3
	FlagRotational      TransmissionFlags = 1 << 4
	FlagSendTrim        TransmissionFlags = 1 << 5
	FlagSendWriteZeroes TransmissionFlags = 1 << 6
	FlagSendDF          TransmissionFlags = 1 << 7
	FlagMultiConn       TransmissionFlags = 1 << 8
	FlagSendCache       TransmissionFlags = 1 << 10
	FlagSendFastZero    TransmissionFlags = 1 << 11
)

// Option is an option that a client sends while haggling.
type Option uint32

// Options.
const (
	OptExportName      Option = 1
	OptAbort           Option = 2
	OptList            Option = 3
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11
)

// OptionReply is the type of the answer to an option.
type OptionReply uint32

// Answers to options. Those with bit 31 are errors.
const (
	RepAck              OptionReply = 1
	RepServer           OptionReply = 2
	RepInfo             OptionReply = 3
	RepMetaContext      OptionReply = 4
	RepErrUnsup         OptionReply = 1<<31 + 1
	RepErrPolicy        OptionReply = 1<<31 + 2
	RepErrInvalid       OptionReply = 1<<31 + 3
	RepErrPlatform      OptionReply = 1<<31 + 4
	RepErrTLSReqd       OptionReply = 1<<31 + 5
	RepErrUnknown       OptionReply = 1<<31 + 6
	RepErrShutdown      OptionReply = 1<<31 + 7
	RepErrBlockSizeReqd OptionReply = 1<<31 + 8
	RepErrTooBig        OptionReply = 1<<31 + 9
)

// IsError says whether the answer refuses the option.
func (r OptionReply) IsError() bool { return r>>31 != 0 }

// InfoType is the type of an information item of INFO and GO.
type InfoType uint16

// Information items.
const (
	InfoExport      InfoType = 0
	InfoName        InfoType = 1
	InfoDescription InfoType = 2
	InfoBlockSize   InfoType = 3
)

// Command is the type of a request.
type Command uint16

// Commands.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

// NumCommands is one more than the highest command that is known here.
const NumCommands = 8

var commandNames = [NumCommands]string{
	"read", "write", "disc", "flush", "trim", "cache", "write-zeroes", "block-status",
}

// String returns the protocol's word for the command, in lower case.
func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return "unknown"
}

// CommandFlags modify a request.
type CommandFlags uint16

// Command flags.
const (
	CmdFlagFUA      CommandFlags = 1 << 0
	CmdFlagNoHole   CommandFlags = 1 << 1
	CmdFlagDF       CommandFlags = 1 << 2
	CmdFlagReqOne   CommandFlags = 1 << 3
	CmdFlagFastZero CommandFlags = 1 << 4
)

// ContextAllocation is the name of the context of metadata that says which
// blocks are allocated; NamespaceBase is what it and its like begin with.
const (
	NamespaceBase     = "base:"
	ContextAllocation = NamespaceBase + "allocation"
)

// Flags of an extent in the context base:allocation.
const (
	StateHole uint32 = 1 << 0 // not allocated
	StateZero uint32 = 1 << 1 // reads as zeroes
)

// ReplyFlagDone marks the last chunk of a structured reply.
const ReplyFlagDone uint16 = 1

// ReplyType is the type of a chunk of a structured reply.
type ReplyType uint16

// Chunk types.
const (
	ReplyNone        ReplyType = 0
	ReplyOffsetData  ReplyType = 1
	ReplyOffsetHole  ReplyType = 2
	ReplyBlockStatus ReplyType = 5
	ReplyError       ReplyType = 1<<15 + 1
	ReplyErrorOffset ReplyType = 1<<15 + 2
)

// IsError says whether the chunk reports an error.
func (t ReplyType) IsError() bool { return t>>15 != 0 }

// Errno is an error number as the protocol defines it, whatever the platform.
type Errno uint32

// Error numbers.
const (
	OK          Errno = 0
	ErrPerm     Errno = 1
	ErrIO       Errno = 5
	ErrNoMem    Errno = 12
	ErrInval    Errno = 22
	ErrNoSpc    Errno = 28
	ErrOverflow Errno = 75
	ErrNotSup   Errno = 95
	ErrShutdown Errno = 108
)
