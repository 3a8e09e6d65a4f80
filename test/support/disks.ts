// Disks for tests: small ones to fill up, and ones whose power can be cut. They are mounted where only the test itself sees
// them, so that they go with it.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { atExit, scratch } from './scratch.js'

/** In the environment of a test that has mounts of its own. */
const OWN_MOUNTS = 'DROPMESH_TEST_OWN_MOUNTS'

/** Why there cannot be disks on this machine, or undefined where there can. */
export function whyNoDisks(): string | undefined {
  if (process.platform !== 'linux') return 'mounts need Linux'
  if (process.getuid?.() !== 0) return 'mounts need root'
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices'
  if (spawnSync('mkfs.ext4', ['-V']).error !== undefined) return 'there is no mkfs.ext4'
  return undefined
}

/** Runs a test file again in a mount namespace of its own, and ends this process as that one ends; there it returns. */
export function inOwnMounts(file: string): void {
  if (process.env[OWN_MOUNTS] !== undefined) return
  const { status } = spawnSync(
    'unshare',
    ['--mount', '--propagation', 'private', process.execPath, ...process.execArgv, fileURLToPath(file)],
    { stdio: 'inherit', env: { ...process.env, [OWN_MOUNTS]: '1' } },
  )
  process.exit(status ?? 1)
}

const run = (...[program, ...args]: [string, ...string[]]): void => {
  execFileSync(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
}

/** A small disk with an ext4 on it. */
export class Disk {
  /** Where it is mounted. */
  readonly path: string
  private readonly image: string

  constructor(megabytes: number, path?: string) {
    const folder = scratch('disk')
    atExit(() => {
      for (const mounted of [this.path, memory]) spawnSync('umount', ['--lazy', mounted])
    })
    const memory = join(folder, 'memory')
    this.path = path ?? join(folder, 'disk')
    mkdirSync(memory)
    mkdirSync(this.path, { recursive: true })
    run('mount', '-t', 'tmpfs', 'tmpfs', memory)
    this.image = join(memory, 'image')
    writeFileSync(this.image, '')
    truncateSync(this.image, megabytes * 2 ** 20)
    run('mkfs.ext4', '-q', '-F', '-m', '0', '-E', 'lazy_itable_init=0,lazy_journal_init=0', this.image)
    this.mount()
  }

  // Nothing reaches the disk by itself, and renaming a file does not bring its content there either.
  private mount(): void {
    run('mount', '-o', 'loop,noauto_da_alloc,commit=300', this.image, this.path)
  }

  /** Cuts the power: the disk is what had reached it by now, mounted again. Who writes must stand still, and is killed then. */
  async cutPower(kill: () => Promise<void>): Promise<void> {
    const cut = `${this.image}.cut`
    copyFileSync(this.image, cut)
    await kill()
    this.unmount()
    renameSync(cut, this.image)
    this.mount()
  }

  /** Fills it up but for so many bytes. Returns what makes room again. */
  fill(left: number): () => void {
    const filler = join(this.path, 'filler')
    const file = openSync(filler, 'w')
    const pieces = [16 * 1024, 1024].map((size) => Buffer.alloc(size))
    const hasRoom = () => {
      const { bavail, bsize } = statfsSync(this.path)
      return bavail * bsize > left
    }
    // Only after a sync ext4 knows what is free: it reserves more than it comes to need, and blocks of what was removed
    // are free when that is committed.
    for (let written = 0, before = -1; written > before; ) {
      before = written
      for (const piece of pieces) {
        try {
          while (hasRoom()) written += writeSync(file, piece)
          fsyncSync(file)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
        }
      }
    }
    closeSync(file)
    return () => rmSync(filler)
  }

  private unmount(): void {
    run('umount', this.path)
  }
}
