package main

// diskUsage is how full a disk is. FreeBytes is what an ordinary
// user may still write, UsedPercent is df's.
type diskUsage struct {
	Path        string  `json:"path" doc:"a directory on it"`
	TotalBytes  uint64  `json:"total_bytes"`
	FreeBytes   uint64  `json:"free_bytes" doc:"what an ordinary user may still write"`
	UsedPercent float64 `json:"used_percent" doc:"as df's"`
}

// newDiskUsage computes it from a file system's counts of blocks.
func newDiskUsage(path string, blockSize, blocks, free, available uint64) diskUsage {
	d := diskUsage{Path: path, TotalBytes: blocks * blockSize, FreeBytes: available * blockSize}
	if used := blocks - free; used+available > 0 {
		d.UsedPercent = 100 * float64(used) / float64(used+available)
	}
	return d
}

// freePercent is the part of the disk that an ordinary user may still write.
func (d diskUsage) freePercent() float64 { return 100 - d.UsedPercent }
