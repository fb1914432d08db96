// Package tune holds the flags with which the commands tune an FTL: one for
// each field of ftl.Config that is a matter of taste, with the same name, the
// same default and the same words everywhere.
package tune
