//go:build !scheduler

package main

func main() {}
