package main

import (
	"errors"

	"golang.org/x/sys/windows"
)

func isNotDirectory(err error) bool { return errors.Is(err, windows.ERROR_DIRECTORY) }
func isNameTooLong(err error) bool  { return errors.Is(err, windows.ERROR_FILENAME_EXCED_RANGE) }
func isLinkLoop(err error) bool     { return errors.Is(err, windows.ERROR_CANT_RESOLVE_FILENAME) }
func isNoDevice(error) bool         { return false }
