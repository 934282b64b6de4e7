//go:build linux && (amd64 || arm64)

package exeunt

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Which mode is in force, where there are several.

func init() {
	scenarios["slot mode"] = func() {
		before := code()
		fmt.Println(InForce(), Install(Slot), InForce(), Install(Code))
		local := NewLocal[int]()
		local.Set(1)
		ended(func() { AtExit(func() { fmt.Println("handler") }) })
		fmt.Println(local.Get(), bytes.Equal(before, code()))
		AtExit(func() { fmt.Println("never: the end of main is not noticed") })
		os.Exit(3)
	}
	scenarios["asked twice"] = func() { fmt.Println(Install(Slot), InForce()) }
	scenarios["linked"] = func() {
		linkedMode = "slot"
		fmt.Println(Install(Code), InForce())
	}
	scenarios["mode"] = func() { fmt.Println(Install(), InForce()) }
	// Both copies of this package would use the same words of stacks.
	scenarios["slot mode beside redirected calls"] = func() {
		if err := installCode(); err != nil {
			fmt.Println(err)
		}
		fmt.Println(Install(Slot))
	}
}

func TestSlotModeChangesNoCode(t *testing.T) {
	code, output := child(t, "slot mode", inMode, withoutMap)
	want(t, code, output, 3, "none <nil> slot exeunt: slot mode is in force, and not code mode\nhandler\n1 true\n")
}

func TestTheEnvironmentAsksForAMode(t *testing.T) {
	for mode, line := range map[string]string{"": "<nil> code", "code": "<nil> code", "slot": "<nil> slot", "collected": "<nil> collected"} {
		code, output := child(t, "mode", inMode+mode, withoutMap)
		want(t, code, output, 0, line+"\nthe scenario returned\n")
	}
	_, output := child(t, "mode", inMode+"slots", withoutMap)
	if !strings.Contains(output, `EXEUNT_MODE: there is no mode "slots" (write code, slot or collected) none`) {
		t.Error(output)
	}
}

func TestTheEnvironmentDoesNotOverruleTheProgram(t *testing.T) {
	code, output := child(t, "asked twice", inMode+"code", withoutMap)
	want(t, code, output, 0, "<nil> slot\nthe scenario returned\n")
	code, output = child(t, "linked", inMode+"code", withoutMap)
	want(t, code, output, 0, "exeunt: slot mode is in force, and not code mode slot\nthe scenario returned\n")
}

func TestSlotModeRefusesWhereCallsAreRedirected(t *testing.T) {
	code, output := child(t, "slot mode beside redirected calls", inMode, withoutMap)
	if code != 0 || !strings.Contains(output, "nothing was changed") || !strings.Contains(output, "returnHook") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}
