//go:build !linux && !darwin

package main

import "os"

func tryLock(*os.File) (held bool, err error) { return false, errNotSupported }
func identify(int) (identity, error)          { return identity{}, errNotSupported }
func endOrphan(pidRecord) (orphanFate, error) { return "", errNotSupported }
