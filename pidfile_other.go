//go:build !linux && !darwin

package main

func identify(int) (identity, error)          { return identity{}, errNotSupported }
func endOrphan(pidRecord) (orphanFate, error) { return "", errNotSupported }
