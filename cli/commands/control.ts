// `stop`, `start`, `restart`, `rm`: one signed record each.
import type { Command } from 'commander'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { held, print, printJson } from '../output.js'
import { control } from '../sign.js'

const verbs = {
  stop: { description: 'stop a chute on every AP, keeping its record and data', done: 'is to stop' },
  start: { description: 'start a stopped chute', done: 'is to start' },
  restart: { description: 'replace the containers of a chute', done: 'is to restart' },
  rm: { description: 'remove a chute from the mesh; its named volumes stay where they are', done: 'is removed' },
} as const

export function addControl(program: Command): void {
  for (const [verb, { description, done }] of Object.entries(verbs)) {
    const command = program
      .command(verb)
      .argument('<chute>', 'name, or publisher/name')
      .description(description)
      .option('--key <key>', 'name, SSH key file, or agent, to sign with (default: the named key the chute belongs to)')
    forNode(command, `dropmesh ${verb} hello`).action(
      async (chute: string, options: NodeOptions & { key?: string }) => {
        const result = await control(clientOf(options), chute, options.key, verb as keyof typeof verbs)
        if (options.json) printJson(result)
        else print(`${result.chute} ${done}; ${held(result.holders)}`)
      },
    )
  }
}
