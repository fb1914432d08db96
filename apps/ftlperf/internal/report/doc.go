// Package report turns what jobs measured into what people and programs read:
// a summary in fio's words, and JSON in fio's shape.
//
// A Run is plain data, complete when it is handed over; nothing here measures
// or runs anything.
package report
