package main

import (
	"syscall"
	"unsafe"
)

// begin is where the kernel starts the program when it was linked with -E main.begin. It calls early on the stack that the kernel
// made, and starts Go's runtime when that returns. Linked without, the program starts as any other, and early is never called.
func begin()

// What begin needs: the place before which FS points, and a g whose stack has no end.
var (
	local       [2]uintptr
	noGoroutine [64]uintptr
)

// early does what main does, as far as nothing is unusual, in a tenth of the time that it takes Go's runtime to start. It can use
// nothing of the runtime: no memory but what is there, no goroutine, no panic. Where it returns, main goes on with what was begun.
//
// On the stack are the number of arguments, they, nil, the environment, nil (System V ABI, AMD64, 3.4.1).
func early(stack *uintptr) {
	env := environment{unsafe.Add(unsafe.Pointer(stack), (*stack+2)*unsafe.Sizeof(*stack))}
	r := requestOf(env.value)
	if r.Command == "" || r.Command == "VERSION" || !begun.readAll() {
		return
	}
	if r.Config = begun.config(); needsMemory(r.Config) || !begun.ask(socketOf(r.Config, env.value), r) {
		return
	}
	if exit, ok := begun.print(); ok {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(exit), 0, 0)
	}
}

// environment is where the kernel put it: pointers to texts "name=value" that end with a zero, after the last one nil.
type environment struct{ first unsafe.Pointer }

// value is os.Getenv: the first of a name counts.
func (e environment) value(name string) string {
	for at := e.first; ; at = unsafe.Add(at, unsafe.Sizeof(at)) {
		text := *(**byte)(at)
		if text == nil {
			return ""
		}
		all := unsafe.String(text, length(text))
		if len(all) > len(name) && all[:len(name)] == name && all[len(name)] == '=' {
			return all[len(name)+1:]
		}
	}
}

// length is strlen(3).
func length(text *byte) int {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(text), n)) != 0 {
		n++
	}
	return n
}
