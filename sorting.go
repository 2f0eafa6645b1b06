package main

import "sort"

// slices.SortFunc is compiled for each type of element, 13 KB at a time. These are
// for lists that are not sorted often: they are half as fast, and small.

// sortBy sorts a list; elements that compare equal come in any order.
func sortBy[T any](list []T, compare func(a, b T) int) {
	sort.Slice(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}

// sortStableBy sorts a list and keeps the order of elements that compare equal.
func sortStableBy[T any](list []T, compare func(a, b T) int) {
	sort.SliceStable(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}
