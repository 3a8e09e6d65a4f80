// `forget`, `force`, `drain`, `undrain`: who belongs to the mesh, who votes, and who takes work. Signed with a key of this user.
import type { Command } from 'commander'
import { apKey, unhex } from '../../protocols/bytes.js'
import type { Client } from '../client.js'
import { signerOf } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { held, print, printJson, say } from '../output.js'
import { signAsAdmin } from '../sign.js'

export function addMembers(program: Command): void {
  const forgetting = program.command('forget').argument('<ap>', 'name or id').description('make an AP a member no more')
  forNode(withKey(forgetting), 'dropmesh forget kitchen').action(forget)

  const forcing = program
    .command('force')
    .argument('<chute>', 'name, or publisher/name')
    .description('give an exclusive chute other voters, where too many of its own are gone for good')
  forNode(withKey(forcing), 'dropmesh force hello').action(force)

  for (const [verb, draining] of [
    ['drain', true],
    ['undrain', false],
  ] as const) {
    const command = program
      .command(verb)
      .argument('[ap]', 'name or id (default: this AP)')
      .description(draining ? 'move everything off an AP' : 'let an AP take chutes again')
    forNode(withKey(command), `dropmesh ${verb} kitchen`).action((ap: string | undefined, options: SignedOptions) =>
      drain(ap, draining, options),
    )
  }
}

interface SignedOptions extends NodeOptions {
  key?: string
}

const withKey = (command: Command): Command =>
  command.option('--key <key>', 'key of an admin to sign with: name, SSH key file, or agent (default: yours)')

interface NamedAp {
  id: string
  name: string
}

const findAp = (client: Client, ap: string | undefined): Promise<NamedAp> =>
  client.get('/v1/ap', ap === undefined ? {} : { of: ap })

async function forget(text: string, options: SignedOptions): Promise<void> {
  const client = clientOf(options)
  const ap = await findAp(client, text)
  const secrets = await client.get<string[]>('/v1/secrets/given', { ap: ap.id })
  const { holders } = await signAsAdmin(client, await signerOf(options.key), 'forget', apKey(ap.id), {})
  if (options.json) return printJson({ ...ap, secrets, holders })
  print(`${ap.name} (${ap.id}) is forgotten; to come back it needs a new ticket; ${held(holders)}`)
  if (secrets.length > 0)
    say(
      `It could open these secrets: ${secrets.join(', ')}. Where it is in other hands, set them anew, and change them at whoever takes them.`,
    )
}

async function drain(text: string | undefined, draining: boolean, options: SignedOptions): Promise<void> {
  const client = clientOf(options)
  const ap = await findAp(client, text)
  const { holders } = await signAsAdmin(client, await signerOf(options.key), 'drain', apKey(ap.id), { draining })
  if (options.json) return printJson({ ...ap, draining, holders })
  const outcome = draining ? 'is being drained; "dropmesh ps" shows what is left' : 'takes chutes again'
  print(`${ap.name} ${outcome}; ${held(holders)}`)
}

interface ForcedVoters {
  chute: string
  key: string
  generation: number
  voters: { key: string; name: string }[]
}

async function force(text: string, options: SignedOptions): Promise<void> {
  const client = clientOf(options)
  const signer = await signerOf(options.key)
  const { chute, key, generation, voters } = await client.get<ForcedVoters>('/v1/voters', { of: text })
  const body = { generation, voters: voters.map((voter) => unhex(voter.key)), forced: true }
  const { holders } = await signAsAdmin(client, signer, 'voters', unhex(key), body)
  say(`Make sure that no copy of ${chute} runs on an AP that cannot be reached: nothing but you stops that one now.`)
  const names = voters.map(({ name }) => name)
  if (options.json) return printJson({ chute, generation, voters: names, holders })
  print(`${names.join(', ')} ${names.length === 1 ? 'votes' : 'vote'} on ${chute} from now on; ${held(holders)}`)
}
