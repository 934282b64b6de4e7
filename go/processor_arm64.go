package exeunt

const isARM64 = 1

// quantum is the size of an instruction.
const quantum = 4
