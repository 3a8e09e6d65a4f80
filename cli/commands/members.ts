// `forget`, `drain`, `undrain`: who belongs to the mesh, and who takes work.
import type { Command } from 'commander'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { print, printJson, say } from '../output.js'

export function addMembers(program: Command): void {
  const forgetting = program.command('forget').argument('<ap>', 'name or id').description('make an AP a member no more')
  forNode(forgetting, 'dropmesh forget kitchen').action(async (ap: string, options: NodeOptions) => {
    const answer = await clientOf(options).post<{ id: string; name: string }>('/v1/forget', { ap })
    if (options.json) printJson(answer)
    else print(`${answer.name} (${answer.id}) is forgotten; to come back it needs a new ticket`)
  })

  const forcing = program
    .command('force')
    .argument('<chute>', 'name, or publisher/name')
    .description('give an exclusive chute other voters, where too many of its own are gone for good')
  forNode(forcing, 'dropmesh force hello').action(async (chute: string, options: NodeOptions) => {
    const answer = await clientOf(options).post<{ chute: string; voters: string[] }>('/v1/force', { chute })
    say(
      `Make sure that no copy of ${answer.chute} runs on an AP that cannot be reached: nothing but you stops that one now.`,
    )
    if (options.json) printJson(answer)
    else
      print(
        `${answer.voters.join(', ')} ${answer.voters.length === 1 ? 'votes' : 'vote'} on ${answer.chute} from now on`,
      )
  })

  for (const [verb, draining] of [
    ['drain', true],
    ['undrain', false],
  ] as const) {
    const command = program
      .command(verb)
      .argument('[ap]', 'name or id (default: this AP)')
      .description(draining ? 'move everything off an AP' : 'let an AP take chutes again')
    forNode(command, `dropmesh ${verb} kitchen`).action(async (ap: string | undefined, options: NodeOptions) => {
      const answer = await clientOf(options).post<{ name: string }>('/v1/drain', { ap, draining })
      if (options.json) printJson(answer)
      else
        print(
          draining
            ? `${answer.name} is being drained; "dropmesh ps" shows what is left`
            : `${answer.name} takes chutes again`,
        )
    })
  }
}
