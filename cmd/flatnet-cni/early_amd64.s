#include "textflag.h"

#define SYS_arch_prctl 158
#define ARCH_SET_FS 0x1002

// func begin()
//
// The compiled code looks for g below FS before it calls, and compares the stack's end in it: an empty one has room enough.
// X15 is zero by Go's ABI, as the kernel leaves it. The runtime sets both anew.
TEXT ·begin(SB), NOSPLIT|NOFRAME|TOPFRAME, $0-0
	MOVQ SP, BX
	ANDQ $~15, SP
	SUBQ $16, SP
	MOVQ BX, 8(SP)
	MOVQ $SYS_arch_prctl, AX
	MOVQ $ARCH_SET_FS, DI
	LEAQ ·local+8(SB), SI
	SYSCALL
	LEAQ ·noGoroutine(SB), CX
	MOVQ CX, ·local(SB)
	MOVQ BX, 0(SP)
	CALL ·early(SB)
	MOVQ 8(SP), SP
	JMP _rt0_amd64_linux(SB)
