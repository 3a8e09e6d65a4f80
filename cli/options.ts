// Options that every command shares.
import type { Command } from 'commander'
import { defaultDataDir } from '../node/config.js'
import { Client } from './client.js'

export interface NodeOptions {
  data?: string
  json?: boolean
}

/** Adds `--data` and `--json` to a command that talks to the local node, and an example to its help. */
export function forNode(command: Command, example: string): Command {
  return withExample(
    command
      .option('--data <dir>', 'folder of the node to talk to (or DROPMESH_DATA)')
      .option('--json', 'print one JSON document on stdout'),
    example,
  )
}

export const withExample = (command: Command, example: string): Command =>
  command.addHelpText('after', `\nExample:\n  $ ${example}`)

export const dataDir = (options: NodeOptions): string => options.data ?? defaultDataDir(process.env)

export const clientOf = (options: NodeOptions): Client => new Client(dataDir(options))
