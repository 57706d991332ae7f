/// Chat formats of the field as Jinja text, for tokenizers of Hugging Face's library: messages with `role` and `content`, and
/// `add_generation_prompt`. Special tokens are written out where the format has them; `bos_token` is the tokenizer's.
package enum ChatTemplates {
  package static let names = ["alpaca", "chatml", "exaone", "llama3", "mistral"]

  package static func named(_ name: String) -> String? {
    switch name {
    case "alpaca": alpaca
    case "chatml": chatml
    case "exaone": exaone
    case "llama3": llama3
    case "mistral": mistral
    default: nil
    }
  }

  /// Stanford Alpaca: `### Instruction:` and `### Response:` blocks.
  private static let alpaca = """
    {%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
    {{ message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'user' -%}
    {{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'assistant' -%}
    {{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}
    {%- endif -%}
    {%- endfor -%}
    {%- if add_generation_prompt -%}
    {{ '### Response:\\n' }}
    {%- endif -%}
    """

  /// OpenAI's chat markup: `<|im_start|>role`, a line feed, the text, `<|im_end|>`.
  private static let chatml = """
    {%- for message in messages -%}
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- endfor -%}
    {%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' }}
    {%- endif -%}
    """

  /// EXAONE 3: `[|role|]` before each text, `[|endofturn|]` after it.
  private static let exaone = """
    {%- for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}
    {{ '[|system|][|endofturn|]\\n' }}
    {%- endif -%}
    {{ '[|' + message['role'] + '|]' + message['content'] }}
    {%- if message['role'] == 'user' -%}
    {{ '\\n' }}
    {%- else -%}
    {{ '[|endofturn|]\\n' }}
    {%- endif -%}
    {%- endfor -%}
    {%- if add_generation_prompt -%}
    {{ '[|assistant|]' }}
    {%- endif -%}
    """

  /// Llama 3: header tokens around the role, `<|eot_id|>` after each text.
  private static let llama3 = """
    {{- bos_token -}}
    {%- for message in messages -%}
    {{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endfor -%}
    {%- if add_generation_prompt -%}
    {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
    {%- endif -%}
    """

  /// Mistral Instruct: `[INST] … [/INST]` around what the user says, a system text before the first of them.
  private static let mistral = """
    {{- bos_token -}}
    {%- set pending = namespace(system='') -%}
    {%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
    {%- set pending.system = message['content'] + '\\n\\n' -%}
    {%- elif message['role'] == 'user' -%}
    {{ '[INST] ' + pending.system + message['content'] + ' [/INST]' }}
    {%- set pending.system = '' -%}
    {%- elif message['role'] == 'assistant' -%}
    {{ ' ' + message['content'] + eos_token }}
    {%- endif -%}
    {%- endfor -%}
    """
}
