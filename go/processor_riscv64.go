package exeunt

const isARM64 = 0

// quantum is the size of the instruction with which runtime.goexit begins.
const quantum = 4
