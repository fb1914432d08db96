// Package thread has the lightweight threads that own everything else, the messages between them, and the
// io_devices and io_channels that hang on them.
//
// A Thread is not a goroutine: it is a place where code runs one piece at a time, whenever its host calls Poll. The
// host is a reactor, a test, a simulator or a foreign event loop. The package reads no clock, starts no goroutine and
// has no global state, so that threads driven by one goroutine and a virtual clock are a pure function of the order
// in which they are polled.
//
// "On t" means: in code called by t.Poll (messages, pollers, events), or, while nobody polls t, in the code that is
// about to. What the documentation does not call safe from any goroutine may be called only on its thread.
//
// # Messages
//
// Send is safe from any goroutine: a bounded ring takes the message, and when that is full a larger ring is chained
// behind it, so that nothing is lost, the order of each sender is kept, and no sender ever waits. SendTo is for code
// that runs on a thread and sends to another: what a Poll sends to the same thread goes over together. Post is for code
// that runs on the thread already: a plain queue. SendCritical has one slot, which is emptied before all else.
// Between messages that one sender sends in different ways there is no order.
//
// # One Poll
//
// The critical message; at most maxMsgs messages of other senders; at most maxMsgs posted ones, and none that is
// posted by one of these; what these sent goes over; every active poller; the timed pollers that are due; what these
// sent goes over; the progress of an exit.
//
// # Exit
//
// An exiting thread goes on polling until it holds nothing: no messages, no pollers, no channels, no walk over
// channels that it started, no device whose unregistering it waits for. After ExitLimit it ends all the same, and
// ExitErr names what was left.
package thread
