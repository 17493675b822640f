package api

import (
	"errors"
	"strings"
)

// Fail makes an Error of problems.
func Fail(exit int, problems ...Problem) *Error { return &Error{Problems: problems, Exit: exit} }

// Error has one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Error is the problem in one line.
func (p Problem) Error() string {
	var b strings.Builder
	for _, s := range []string{p.File, p.Code, p.Path} {
		if s != "" {
			b.WriteString(s + ": ")
		}
	}
	b.WriteString(p.Reason)
	if p.Owner != "" {
		b.WriteString(" (" + p.Owner + ")")
	}
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// HasCode reports whether err is, or wraps, an Error with a problem of that code.
func HasCode(err error, code string) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, p := range e.Problems {
		if p.Code == code {
			return true
		}
	}
	return false
}

// IsUnreachable reports whether the daemon did not answer, so that asking again may help.
func IsUnreachable(err error) bool { return HasCode(err, CodeUnreachable) }

// IsNotFound reports whether the object asked for is not there.
func IsNotFound(err error) bool { return HasCode(err, CodeNotFound) }
