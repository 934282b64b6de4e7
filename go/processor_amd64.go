package exeunt

const isARM64 = 0

// quantum is the size of the shortest instruction.
const quantum = 1
