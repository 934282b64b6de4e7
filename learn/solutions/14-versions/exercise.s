// The flag tells unwinders that no caller follows, so they read no word above the foot.
TEXT ·plain(SB), NOSPLIT|TOPFRAME, $0-0
	BYTE $0x90
	CALL ·ended(SB)
	BYTE $0x90
