//go:build race

package main

// raceEnabled makes the program that tests start as a process a race detector, too.
const raceEnabled = true
